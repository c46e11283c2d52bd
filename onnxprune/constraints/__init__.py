"""What may be asked of a layer's weights beside being near: zeros. They know moments, and no operator, file or data."""

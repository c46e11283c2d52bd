"""The file: read it, edit it, write it. Nothing here runs a model."""

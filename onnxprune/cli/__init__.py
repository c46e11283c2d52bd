"""The command line: parse, call, print, exit code. Heavy imports happen inside the commands."""

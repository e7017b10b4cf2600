"""What is true: values in, values out. No files, no clock, no environment."""

"""What two methods or more share, one concept a file."""

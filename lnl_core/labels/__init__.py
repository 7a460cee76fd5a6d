"""Labels as people bring them: names and numbers, files of ids and labels, the index of rows, the trusted rows."""

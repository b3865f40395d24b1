"""How fast is kopsfs beside rclone and s3fs?  `python -m tests.bench` (`make bench`) answers with a table."""

"""What a person looks at: pages and pictures of runs and of the embedded space."""

"""What is trained and what it answers, made once and kept in the store."""

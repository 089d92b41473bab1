"""The leaderboard: results -> tables -> what is published, printed and shown."""

"""Extensions of a scope: observers of what it does."""

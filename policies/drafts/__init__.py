"""What the cascade knows about a student's draft: is it an answer at all, how sure is it, and what does that say."""

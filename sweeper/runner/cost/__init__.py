"""What a sweep costs: budgets that end it, and estimates before it starts."""

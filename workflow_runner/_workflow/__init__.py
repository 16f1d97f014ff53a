"""The floor of workflows: steps and the data that goes from one to the next."""

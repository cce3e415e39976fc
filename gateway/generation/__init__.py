"""The use case: generates the images of a request on upstream accounts, and settles what they cost."""

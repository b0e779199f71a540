"""The miniature's world: scenes, what they look like, what can be asked of them."""

"""Answers kept per token dropped: the bench, its contestants and its pages."""

"""What can reduce a clip's tokens: the seam, the registry, AOT's peers and the project's own."""

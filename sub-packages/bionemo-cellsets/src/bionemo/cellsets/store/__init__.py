"""Open the store on disk: check its manifest, map its arrays, make their rows dense."""

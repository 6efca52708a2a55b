"""The store on disk: its manifest, its arrays, and their rows made dense."""

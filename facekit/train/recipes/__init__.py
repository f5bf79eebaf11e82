"""One file a method, read top to bottom: settings -> build -> step."""

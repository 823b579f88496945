"""What only the command line needs: models by name, the page's server, a browser to drive."""

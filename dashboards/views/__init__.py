"""The tabs, one module each; `VIEWS` has them in the order of the page."""

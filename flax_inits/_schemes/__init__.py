"""Methods that set several leaves together, so that no initializer per leaf can do them.

Knows surgery, modules and the initializers. Start with `deepnorm`, the shortest one.
"""

"""What only module systems know: one folder for Linen, one for NNX.

Which class of module made a leaf, how a rule reaches into the module that makes it, and how a model
is run. Knows trees and rules, but nothing of how values are made. Start with `reach`: it runs a
function with rules, whichever system its modules are of; a `Run` is what it and the two folders
share. `network` and `calls` are for those who run a model and its layers.
"""

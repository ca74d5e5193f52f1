"""The factories, by family: what a user passes as `kernel_init`.

`general` for any layer, `structured` where elements depend on each other, `architectures` for what
one architecture asks for, `combinators` for initializers made of initializers. They know nothing of
trees, models and optimizers, and nothing but the schemes knows them. Start with
`general/uniform_normal`; `_build` makes a function into a factory.
"""

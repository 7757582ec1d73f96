"""The executor: the seam, its loop, the process it runs in, and its implementations.

`messages` is all that crosses the process boundary. On the front end's side stand `client` and
`stream`; in the executor process `process`, `loop` and one implementation of `seam.Executor`.
"""

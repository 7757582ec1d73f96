"""`mistralchat bench`: a load generator for any server that speaks the contract.

The command (`command`) asks the server for its model, prepares the calls of each load (`plan`, `load`,
`prompts`) and has processes of their own make them (`run`, `workers`, `generator`, `caller`), so that nothing
but calls happens where times are taken. They hand back what they noted (`recording`). The figures follow from
it (`statistics`), as a table, JSON and a picture (`table`, `report`, `plot`).
"""

"""The HTTP server of `python -m eqids.serve`, on Starlette and uvicorn.

    bodies.py       the JSON of requests and answers, as types
    operations.py   the table of endpoints: path, types, statuses and function of each
    endpoint.py     answers a request to one: key, body, function, answer
    application.py  routes requests to endpoints, counts and logs them
    openapi.py      the OpenAPI document of the table
    web_server.py   listens, opens the model, and drains after a signal
    connections.py  closes connections of slow clients

`service.py` is what requests share: the engine, and the served model with its names.
"""

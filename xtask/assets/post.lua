-- One small JSON event, the same for every server under load.
wrk.method = "POST"
wrk.body = '{"name": "ada"}'
wrk.headers["Content-Type"] = "application/json"

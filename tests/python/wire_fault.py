"""Shows that a wrong answer fails a test that does not look at it: it calls a server that answers wrongly."""
import wire

wire.client().get_account_settings()
print("the client is content")

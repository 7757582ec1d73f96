"""The mistralchat server: a gRPC front end (`rpc`, `text`) and an executor process (`executor`)."""

"""The service: a model that stays loaded, and answers over HTTP. Needs the extra `serve`."""

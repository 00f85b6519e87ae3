"""The native API: one table of routes a noun, from which routing, decoding, answers and the OpenAPI document are made."""

"""The API of Network Service Mesh: messages, constants, and typed views of them."""

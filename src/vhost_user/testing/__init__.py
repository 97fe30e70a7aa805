"""What tests of a vhost-user device need: a booted guest, and a pytest plugin."""

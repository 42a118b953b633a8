"""Accounts, roles, passwords, tokens and keys."""

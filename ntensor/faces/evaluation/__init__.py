"""Measures of a trained face model on identities that training never showed."""

"""Evaluations: does a picture show what was asked for?"""

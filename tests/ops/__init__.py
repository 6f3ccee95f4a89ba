"""Tests of the operators: ``cases`` says what is run, ``truth`` what is right, ``accuracy`` how near is near enough."""

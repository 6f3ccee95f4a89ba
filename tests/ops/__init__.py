"""Tests of the operators. ``cases`` lists what is run, ``truth`` says what is right, ``accuracy`` how near is near enough."""

from medart_cli.evaluate.shortfalls import tell_shortfalls


def test_without_enough_images_the_sentence_says_what_is_needed():
    facts = [{"key": "sex", "groups": {}, "sets": {"a": {"gap": None, "groups": {}}}}]
    (line,) = tell_shortfalls(facts)
    assert line.startswith("a, by sex: not compared; two subgroups with at least 20 images")

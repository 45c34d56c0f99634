from medart_cli.stages.classify_predict import describe_prediction


def test_the_likeliest_class_is_predicted_and_each_has_its_probability():
    found = describe_prediction([0.2, 0.5, 0.3], ["a", "b", "c"])
    assert found == {"predicted": "b", "probabilities": {"a": 0.2, "b": 0.5, "c": 0.3}}

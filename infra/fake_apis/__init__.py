"""Stand-ins for OpenWeather and AviationStack: documented shapes and errors, generated data.

The JSON Schemas in schemas/ hold the shapes. Any key is good except an empty one and `invalid`.
"""

NAME = "datastream-fake-apis"

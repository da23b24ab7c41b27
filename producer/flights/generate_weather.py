"""Generates the weather at airports as JSON lines: `python generate_weather.py --help`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from faker import Faker
from faker.providers import BaseProvider

from flight_lines import (
    JSON_FAULTS,
    Content,
    Fault,
    Options,
    change,
    encode,
    make_app,
    omit,
)
from flight_weather import BAD, Airport, format_time, severity_at

KELVIN = 273.15
# From the calmest weather to the worst: what is from this severity on, as OpenWeather calls it.
CONDITIONS = (
    (0.85, "Thunderstorm", "thunderstorm with heavy rain"),
    (BAD, "Rain", "heavy intensity rain"),
    (0.5, "Rain", "light rain"),
    (0.25, "Clouds", "scattered clouds"),
    (0.0, "Clear", "clear sky"),
)


class WeatherProvider(BaseProvider):
    """Weather by its severity."""

    def around(self, value: float, spread: float, low: float, high: float) -> float:
        """A number near a value, with one digit."""
        drawn: float = self.generator.random.gauss(value, spread)
        return round(min(high, max(low, drawn)), 1)

    def climate(self, lat: float) -> float:
        """A temperature in °C."""
        return self.around(30 - abs(lat) * 0.45, 3, -30, 45)


def draw_weather(airports: Sequence[Airport], options: Options) -> Iterator[Content]:
    """Endless observations, one airport after the other."""
    fake = Faker()
    fake.add_provider(WeatherProvider)
    fake.seed_instance(options.seed)
    for number, moment in enumerate(options.list_times()):
        airport = airports[number % len(airports)]
        severity = severity_at(airport.iata, moment)
        temperature = fake.climate(airport.lat)
        wind = fake.around(2 + severity * 18, 1.5, 0, 40)
        condition, description = next((name, text) for lowest, name, text in CONDITIONS if severity >= lowest)
        is_cold = temperature <= 0
        rain = fake.around((severity - 0.5) * 20, 1, 0.1, 50) if severity >= 0.5 else None
        content = {
            "observed_at": format_time(moment),
            "place_id": airport.iata,
            "lat": airport.lat,
            "lon": airport.lon,
            "units": "metric",
            "temperature": temperature,
            "feels_like": round(temperature - wind / 4, 1),
            "pressure_hpa": fake.around(1020 - severity * 35, 3, 950, 1050),
            "humidity_pct": fake.around(45 + severity * 45, 5, 0, 100),
            "visibility_m": fake.around(10_000 - max(0.0, severity - 0.4) * 14_000, 300, 100, 10_000),
            "wind_speed": wind,
            "wind_deg": fake.random_int(0, 359),
            "wind_gust": round(wind * 1.6, 1) if severity >= 0.5 else None,
            "clouds_pct": fake.around(severity * 110, 5, 0, 100),
            "rain_1h_mm": None if is_cold else rain,
            "snow_1h_mm": rain if is_cold else None,
            "condition": "Snow" if is_cold and rain else condition,
            "description": "snow" if is_cold and rain else description,
            "air_observed_at": format_time(moment - timedelta(minutes=fake.random_int(0, 50))),
            "aqi": fake.random_int(1, 5),
            "pm2_5": fake.around(15, 6, 0, 200),
            "pm10": fake.around(25, 8, 0, 300),
            "no2": fake.around(20, 8, 0, 200),
            "o3": fake.around(60, 15, 0, 250),
        }
        yield {name: value for name, value in content.items() if value is not None}


FAULTS: dict[str, Fault] = JSON_FAULTS | {
    "missing_field/place": omit("place_id"),
    "wrong_type": lambda content: encode(content | {"temperature": str(content["temperature"])}),
    "wrong_units": change(units="celsius"),
    "wrong_units/kelvin": lambda content: encode(content | {"temperature": round(content["temperature"] + KELVIN, 2)}),
    "impossible_coordinates": change(lat=95.0),
    "impossible_coordinates/swapped": lambda content: encode(content | {"lat": 139.78, "lon": 35.55}),
    "out_of_range": change(humidity_pct=130),
    "invalid_text": change(description="rain\tand wind"),
    "unknown_airport": change(place_id="QQQ"),
}

app = make_app(
    draw_weather,
    FAULTS,
    "Print observations of the weather, one JSON object per line.\n\n"
    "At the same hour, generate_flights.py delays the flights of an airport with bad weather.",
)

if __name__ == "__main__":
    app()

-- The tables of the flights. Common ground of MySQL 8.4 and MariaDB. All times are in UTC.
CREATE TABLE IF NOT EXISTS airports (
    iata CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    name VARCHAR(100) NOT NULL,
    city VARCHAR(100) NOT NULL,
    country CHAR(2) NOT NULL,
    lat DOUBLE NOT NULL,
    lon DOUBLE NOT NULL,
    timezone VARCHAR(64) NOT NULL
);

-- Places whose weather is observed, with the time of the newest observation.
CREATE TABLE IF NOT EXISTS places (
    place_id CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    lat DOUBLE NOT NULL,
    lon DOUBLE NOT NULL,
    observed_at DATETIME(6) NOT NULL
);

CREATE TABLE IF NOT EXISTS airlines (
    iata CHAR(2) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    first_seen_at DATETIME(6) NOT NULL
);

-- The newest state of each flight.
CREATE TABLE IF NOT EXISTS flights (
    flight_id VARCHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    event_id CHAR(36) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    airline CHAR(2) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    number VARCHAR(5) NOT NULL,
    marketing_number VARCHAR(200),
    flight_date DATE NOT NULL,
    departure_airport CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    arrival_airport CHAR(3) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    status VARCHAR(20) NOT NULL,
    scheduled_departure DATETIME(6) NOT NULL,
    estimated_departure DATETIME(6),
    actual_departure DATETIME(6),
    scheduled_arrival DATETIME(6) NOT NULL,
    estimated_arrival DATETIME(6),
    actual_arrival DATETIME(6),
    departure_delay_min DOUBLE,
    arrival_delay_min DOUBLE,
    source VARCHAR(200) NOT NULL,
    observed_at DATETIME(6) NOT NULL,
    INDEX by_departure (departure_airport, scheduled_departure)
);

-- The requests made to each API in each period of its plan (jobs/flights/quota.py).
CREATE TABLE IF NOT EXISTS quota_ledger (
    source VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    period VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    starts_at DATETIME(6) NOT NULL,
    used INT NOT NULL,
    PRIMARY KEY (source, period, starts_at)
);

-- Files that were imported, by the SHA-256 of their content (jobs/flights/sources/csv_files.py).
CREATE TABLE IF NOT EXISTS imported_files (
    sha256 CHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    name VARCHAR(255) NOT NULL,
    next_line BIGINT NOT NULL,
    finished_at DATETIME(6)
);

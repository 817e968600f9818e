-- begin to write
BEGIN IMMEDIATE;

-- find what vPIC said of a vehicle
SELECT vin, fetched_at, record FROM vehicles WHERE source = 'vpic' AND vin IN (:vin);

-- find what vPIC said of a rejection
SELECT vin, fetched_at, record FROM rejections WHERE source = 'vpic' AND vin IN (:vin);

-- keep a change
INSERT INTO changes (
  vin, fetched_at, record, replaced_at, changed
) VALUES (
  :vin, :fetched_at, :record, :replaced_at, :changed
);

-- forget a vehicle
DELETE FROM vehicles WHERE vin IN (:vin);

-- forget a rejection
DELETE FROM rejections WHERE vin IN (:vin);

-- keep a vehicle
INSERT INTO vehicles (
  vin, make, model, model_year, body_class, vehicle_type, manufacturer, series, trim, doors, seats, seat_rows,
  wheels, axles, drive_type, cab_type, bed_type, fuel_type, fuel_type_secondary, electrification,
  engine_model, engine_manufacturer, engine_configuration, cylinders, displacement_l, engine_hp, engine_kw,
  turbo, battery_kwh, transmission, transmission_speeds, gvwr_class, gvwr_from_kg, gvwr_to_kg, curb_weight_kg,
  wheelbase_in, top_speed_mph, base_price_usd, brake_system, bus_type, trailer_body_type, plant_city,
  plant_state, plant_country, plant_company, destination_market, descriptor, error_code, warnings, source,
  source_version, fetched_at, notes, record
) VALUES (
  :vin, :make, :model, :model_year, :body_class, :vehicle_type, :manufacturer, :series, :trim, :doors, :seats,
  :seat_rows, :wheels, :axles, :drive_type, :cab_type, :bed_type, :fuel_type, :fuel_type_secondary,
  :electrification, :engine_model, :engine_manufacturer, :engine_configuration, :cylinders, :displacement_l,
  :engine_hp, :engine_kw, :turbo, :battery_kwh, :transmission, :transmission_speeds, :gvwr_class,
  :gvwr_from_kg, :gvwr_to_kg, :curb_weight_kg, :wheelbase_in, :top_speed_mph, :base_price_usd, :brake_system,
  :bus_type, :trailer_body_type, :plant_city, :plant_state, :plant_country, :plant_company,
  :destination_market, :descriptor, :error_code, :warnings, :source, :source_version, :fetched_at, :notes,
  :record
);

-- keep a rejection
INSERT INTO rejections (
  vin, reason, error_code, suggested_vin, make, source, source_version, fetched_at, notes, record
) VALUES (
  :vin, :reason, :error_code, :suggested_vin, :make, :source, :source_version, :fetched_at, :notes, :record
);

-- end writing
COMMIT;

-- read a vehicle
SELECT vin, record, source, source_version, fetched_at, notes FROM vehicles WHERE vin IN (:vin);

-- read a rejection
SELECT vin, record, source, source_version, fetched_at, notes FROM rejections WHERE vin IN (:vin);

-- search
SELECT vin FROM vehicles WHERE rowid IN (SELECT rowid FROM vehicles_fts WHERE vehicles_fts MATCH :words);

-- count vehicles
SELECT count(*) FROM vehicles;

-- count rejections
SELECT count(*) FROM rejections;

-- export
SELECT
  vin, make, model, model_year, body_class, vehicle_type, manufacturer, series, trim, doors, seats, seat_rows,
  wheels, axles, drive_type, cab_type, bed_type, fuel_type, fuel_type_secondary, electrification,
  engine_model, engine_manufacturer, engine_configuration, cylinders, displacement_l, engine_hp, engine_kw,
  turbo, battery_kwh, transmission, transmission_speeds, gvwr_class, gvwr_from_kg, gvwr_to_kg, curb_weight_kg,
  wheelbase_in, top_speed_mph, base_price_usd, brake_system, bus_type, trailer_body_type, plant_city,
  plant_state, plant_country, plant_company, destination_market, descriptor, error_code, warnings, source,
  source_version, fetched_at, notes, record
FROM vehicles INDEXED BY sqlite_autoindex_vehicles_1 WHERE 1 ORDER BY vin;

-- read the search index's trigger
SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = 'vehicles_ai';

-- find the search index's columns
PRAGMA table_info(vehicles_fts);

-- find fresh vehicles
SELECT group_concat(vin, ' ') FROM vehicles INDEXED BY idx_vehicles_vin_fetched_at_source_error_code
WHERE vin IN (SELECT value FROM json_each(:vins))
  AND fetched_at > '' AND source IN ('vpic', 'vpic-sibling') AND error_code = '0';

-- find a sibling
SELECT vin, record, source, source_version, fetched_at, notes FROM vehicles WHERE descriptor = :descriptor AND error_code = '0' AND source = 'vpic';

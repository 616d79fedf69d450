CREATE TABLE observation_groups (
    group_id VARCHAR NOT NULL,
    status VARCHAR NOT NULL,
    reason VARCHAR,
    PRIMARY KEY (group_id)
);
CREATE TABLE registry_schema (
    version INTEGER NOT NULL,
    PRIMARY KEY (version)
);
CREATE TABLE products (
    "key" VARCHAR NOT NULL,
    stage VARCHAR NOT NULL,
    stage_version INTEGER NOT NULL,
    group_id VARCHAR NOT NULL,
    folder VARCHAR NOT NULL,
    outputs JSON NOT NULL,
    created_at VARCHAR NOT NULL,
    attempt VARCHAR NOT NULL,
    host VARCHAR NOT NULL,
    size_bytes BIGINT NOT NULL,
    PRIMARY KEY ("key"),
    FOREIGN KEY(group_id) REFERENCES observation_groups (group_id)
);
CREATE INDEX ix_products_group_id ON products (group_id);
CREATE TABLE subband_files (
    path VARCHAR NOT NULL,
    group_id VARCHAR NOT NULL,
    subband INTEGER NOT NULL,
    timestamp_seconds BIGINT NOT NULL,
    PRIMARY KEY (path),
    FOREIGN KEY(group_id) REFERENCES observation_groups (group_id)
);
CREATE INDEX ix_subband_files_group_id ON subband_files (group_id);
CREATE INDEX ix_subband_files_timestamp_seconds ON subband_files (timestamp_seconds);
CREATE TABLE caltable_sets (
    product_key VARCHAR NOT NULL,
    set_name VARCHAR NOT NULL,
    group_id VARCHAR NOT NULL,
    source_ms VARCHAR NOT NULL,
    calibrator VARCHAR NOT NULL,
    refant VARCHAR NOT NULL,
    declination_deg DOUBLE NOT NULL,
    mid_mjd DOUBLE NOT NULL,
    valid_start_mjd DOUBLE NOT NULL,
    valid_end_mjd DOUBLE NOT NULL,
    status VARCHAR NOT NULL,
    retired_reason VARCHAR,
    created_at VARCHAR NOT NULL,
    quality JSON NOT NULL,
    PRIMARY KEY (product_key),
    FOREIGN KEY(product_key) REFERENCES products ("key"),
    FOREIGN KEY(group_id) REFERENCES observation_groups (group_id)
);
CREATE INDEX ix_caltable_sets_group_id ON caltable_sets (group_id);
CREATE INDEX ix_caltable_sets_mid_mjd ON caltable_sets (mid_mjd);
CREATE TABLE images (
    product_key VARCHAR NOT NULL,
    group_id VARCHAR NOT NULL,
    folder VARCHAR NOT NULL,
    details JSON NOT NULL,
    PRIMARY KEY (product_key),
    FOREIGN KEY(product_key) REFERENCES products ("key"),
    FOREIGN KEY(group_id) REFERENCES observation_groups (group_id)
);
CREATE INDEX ix_images_group_id ON images (group_id);
CREATE TABLE measurement_sets (
    path VARCHAR NOT NULL,
    product_key VARCHAR NOT NULL,
    group_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    start_mjd DOUBLE NOT NULL,
    mid_mjd DOUBLE NOT NULL,
    end_mjd DOUBLE NOT NULL,
    ra_deg DOUBLE NOT NULL,
    dec_deg DOUBLE NOT NULL,
    declination_deg DOUBLE NOT NULL,
    n_rows BIGINT NOT NULL,
    n_channels INTEGER NOT NULL,
    flagged_fraction DOUBLE NOT NULL,
    PRIMARY KEY (path),
    FOREIGN KEY(product_key) REFERENCES products ("key"),
    FOREIGN KEY(group_id) REFERENCES observation_groups (group_id)
);
CREATE INDEX ix_measurement_sets_group_id ON measurement_sets (group_id);
CREATE INDEX ix_measurement_sets_product_key ON measurement_sets (product_key);
CREATE TABLE validations (
    product_key VARCHAR NOT NULL,
    group_id VARCHAR NOT NULL,
    details JSON NOT NULL,
    PRIMARY KEY (product_key),
    FOREIGN KEY(product_key) REFERENCES products ("key"),
    FOREIGN KEY(group_id) REFERENCES observation_groups (group_id)
);
CREATE INDEX ix_validations_group_id ON validations (group_id);
CREATE TABLE caltables (
    path VARCHAR NOT NULL,
    product_key VARCHAR NOT NULL,
    type VARCHAR NOT NULL,
    apply_order INTEGER NOT NULL,
    interp VARCHAR NOT NULL,
    PRIMARY KEY (path),
    FOREIGN KEY(product_key) REFERENCES caltable_sets (product_key)
);
CREATE INDEX ix_caltables_product_key ON caltables (product_key);

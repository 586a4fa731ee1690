CREATE SCHEMA IF NOT EXISTS shop;

CREATE TABLE IF NOT EXISTS shop.customers (
    id bigint PRIMARY KEY,
    name text NOT NULL,
    orders bigint NOT NULL,
    total numeric NOT NULL
);

-- The tables of the examples: psql "$SHOP_DSN" -f shop.sql
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id bigint PRIMARY KEY, total numeric NOT NULL, note text);
CREATE TABLE shop.customers (id bigint PRIMARY KEY, email text NOT NULL);
-- Where own_transaction.py writes: not published, so that it makes no events.
CREATE TABLE shop.order_totals (id bigint PRIMARY KEY, total numeric CHECK (total >= 0), identity text NOT NULL);
CREATE TABLE shop.handled (identity text PRIMARY KEY);

CREATE TABLE public.customers (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE public.orders (
    id bigint PRIMARY KEY,
    customer_id bigint NOT NULL,
    total numeric NOT NULL
);
CREATE INDEX ON public.orders (customer_id);
INSERT INTO public.customers SELECT n, 'Customer ' || n FROM generate_series(0, {keys} - 1) AS n;
INSERT INTO public.orders SELECT n, n % {keys}, n FROM generate_series(1, {changes}) AS n;
ALTER TABLE public.orders REPLICA IDENTITY FULL;

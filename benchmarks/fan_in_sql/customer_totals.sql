SELECT customer.id, customer.name, count(each.id) AS orders, coalesce(sum(each.total), 0) AS total
FROM public.customers AS customer
LEFT JOIN public.orders AS each ON each.customer_id = customer.id
GROUP BY customer.id, customer.name

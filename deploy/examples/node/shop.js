// A shop that goes on writing while its schema changes: Node, with pg and its pool.
//
// It knows both schemas, and writes to the one in use. When that changes in the middle of a transaction, Postgres
// refuses its next statement with RP002; the transaction is rolled back and run again in the other schema. Nobody sees
// an error.
//
//     OLD_DATABASE_URL=postgresql://app@localhost/app node shop.js
//
// writes until it is told to stop (Ctrl-C or SIGTERM), and prints a line of JSON for each write that it has done.

'use strict'

const { Client, Pool } = require('pg')

const NOT_OPEN = 'RP002'
const PATIENCE = 60_000 // milliseconds that a transaction is tried again, before its user sees the error
const PAUSE = 20
const WRITERS = 3

// ---- the statements, once for each schema; each function is run in one transaction, and may be run again

const shops = {
  // The schema public: addresses in a table of their own.
  old: {
    async register(db, email, name, address) {
      const made = 'INSERT INTO public.customers (email, full_name) VALUES ($1, $2) RETURNING id'
      const { rows } = await db.query(made, [email, name])
      await db.query(
        "INSERT INTO public.addresses (customer_id, kind, street, city) VALUES ($1, 'billing', $2, $3)",
        [rows[0].id, address.street, address.city],
      )
      return Number(rows[0].id)
    },
    async move(db, customer, address) {
      await db.query(
        "UPDATE public.addresses SET street = $1, city = $2 WHERE customer_id = $3 AND kind = 'billing'",
        [address.street, address.city, customer],
      )
    },
    async changeEmail(db, customer, email) {
      await db.query('UPDATE public.customers SET email = $1 WHERE id = $2', [email, customer])
    },
    async forget(db, customer) {
      await db.query('DELETE FROM public.addresses WHERE customer_id = $1', [customer])
      await db.query('DELETE FROM public.customers WHERE id = $1', [customer])
    },
  },

  // The schema shop: addresses in a document, e-mail addresses in a table of their own.
  new: {
    async register(db, email, name, address) {
      const made = 'INSERT INTO shop.customers (name, addresses) VALUES ($1, $2) RETURNING id'
      const { rows } = await db.query(made, [name, { billing: address }])
      await db.query('INSERT INTO shop.emails (email, customer_id) VALUES ($1, $2)', [email, rows[0].id])
      return Number(rows[0].id)
    },
    async move(db, customer, address) {
      await db.query('UPDATE shop.customers SET addresses = addresses || $1 WHERE id = $2', [
        { billing: address },
        customer,
      ])
    },
    async changeEmail(db, customer, email) {
      await db.query('UPDATE shop.emails SET email = $1 WHERE customer_id = $2', [email, customer])
    },
    async forget(db, customer) {
      await db.query('DELETE FROM shop.emails WHERE customer_id = $1', [customer])
      await db.query('DELETE FROM shop.customers WHERE id = $1', [customer])
    },
  },
}

// ---- which of them is in use

const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds))

class Database {
  // Runs transactions in the schema in use. The two may be the same database.
  constructor(oldUrl, newUrl) {
    this.oldUrl = oldUrl
    const pool = (url) =>
      new Pool({ connectionString: url, max: WRITERS }).on('error', (error) => console.error(error.message))
    const old = pool(oldUrl)
    this.pools = { old, new: newUrl === oldUrl ? old : pool(newUrl) }
    this.side = 'old'
    this.listen()
  }

  // Runs work in one transaction, in whichever schema takes it. What it does outside is done twice, maybe.
  async transaction(work) {
    const deadline = Date.now() + PATIENCE
    for (;;) {
      const side = this.side
      try {
        return await this.once(side, work)
      } catch (error) {
        if (error.code !== NOT_OPEN || Date.now() > deadline) throw error
      }
      // The other one it is. Between two databases neither is open for a moment: then we come back here.
      this.side = side === 'old' ? 'new' : 'old'
      await sleep(PAUSE)
    }
  }

  async once(side, work) {
    const db = await this.pools[side].connect()
    let broken = false
    try {
      await db.query('BEGIN')
      const result = await work(shops[side], db)
      await db.query('COMMIT')
      return result
    } catch (error) {
      await db.query('ROLLBACK').catch(() => (broken = true))
      throw error
    } finally {
      db.release(broken)
    }
  }

  // Learns of the change at once. For writing that is not needed; for what only reads, it is.
  listen() {
    const db = new Client({ connectionString: this.oldUrl })
    let over = false
    const again = () => {
      if (!over && !this.closed) setTimeout(() => this.listen(), 1000)
      over = true
    }
    db.on('error', again).on('end', again)
    db.on('notification', ({ payload }) => (this.side = payload === 'new' ? 'new' : 'old'))
    this.listener = db
    db.connect()
      .then(() => db.query('LISTEN replicator_cutover'))
      .then(() => this.ask(db)) // listen first, then ask: so nothing is missed in between
      .catch(() => db.end())
  }

  // The flag. Before the migration begins, and when it has been cleared away, there is none.
  async ask(db) {
    try {
      const { rows } = await db.query('SELECT replicator.use_new_schema() AS new')
      this.side = rows[0].new ? 'new' : 'old'
    } catch (error) {
      if (error.code !== '42883' && error.code !== '3F000') throw error
    }
  }

  async close() {
    this.closed = true
    await this.listener.end()
    await Promise.all([...new Set(Object.values(this.pools))].map((pool) => pool.end()))
  }
}

// ---- the application

// Tells the user that a write is done.
const told = (facts) => process.stdout.write(JSON.stringify(facts) + '\n')

const cities = ['Ulm', 'Bonn', 'Essen']
const any = (list) => list[Math.floor(Math.random() * list.length)]

// One of several writers, with customers of its own.
async function shopping(database, number, stop) {
  const customers = []
  for (let count = 1; !stop.now; count++) {
    const email = `node-${process.pid}-${number}-${count}@example.org`
    const address = { street: `${count} Main Street`, city: any(cities) }
    const what = customers.length ? any(['register', 'move', 'move', 'changeEmail', 'changeEmail', 'forget']) : 'register'
    const customer = any(customers)
    if (what === 'register') {
      const name = `Customer ${count}`
      const made = await database.transaction((shop, db) => shop.register(db, email, name, address))
      customers.push(made)
      told({ side: database.side, customer: made, email, name, address })
    } else if (what === 'move') {
      await database.transaction((shop, db) => shop.move(db, customer, address))
      told({ side: database.side, customer, address })
    } else if (what === 'changeEmail') {
      await database.transaction((shop, db) => shop.changeEmail(db, customer, email))
      told({ side: database.side, customer, email })
    } else {
      await database.transaction((shop, db) => shop.forget(db, customer))
      customers.splice(customers.indexOf(customer), 1)
      told({ side: database.side, customer, forgotten: true })
    }
    await sleep(20)
  }
}

// Writes until a signal comes, or a write fails: then with its error and the exit code 1.
async function main() {
  const old = process.env.OLD_DATABASE_URL
  const database = new Database(old, process.env.NEW_DATABASE_URL || old)
  const stop = { now: false }
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => (stop.now = true))
  try {
    await Promise.all(Array.from({ length: WRITERS }, (_, number) => shopping(database, number, stop)))
  } finally {
    stop.now = true
    await database.close()
  }
}

main().catch((error) => {
  console.error(error)
  process.exitCode = 1
})

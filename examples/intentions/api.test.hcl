# What is expected of api.hcl: `portcullis test examples/intentions`.
intentions     = "api.hcl"
default_policy = "deny"
target         = "api"

test {
  name   = "web reads items"
  source = "web"
  request { path = "/items/1" headers = { x-tenant = "a" } }
  expect = "allow"
}
test {
  name   = "web does not delete them"
  source = "web"
  request { method = "DELETE" path = "/items/1" }
  expect { effect = "deny" code = "no-permission-matched" }
}
test {
  name   = "no spelling leads to /admin"
  source = "web"
  request { path = "/items/..;/admin" }
  expect = "deny"
}
test {
  name   = "batch does everything"
  source = "batch"
  request { method = "DELETE" path = "/items/1" }
  expect = "allow"
}
test {
  name   = "nobody else does anything"
  source = "billing"
  request { path = "/items/1" }
  expect { code = "default-policy" }
}

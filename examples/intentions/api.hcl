# Who may do what with `api`: a config entry as `consul config write` takes it.
Kind = "service-intentions"
Name = "api"
Sources = [
  {
    Name = "web"
    Permissions = [
      {
        Action = "allow"
        HTTP {
          PathPrefix = "/items/"
          Methods    = ["GET", "HEAD"]
        }
      },
      {
        Action = "deny"
        HTTP {
          PathPrefix = "/admin"
        }
      },
    ]
  },
  {
    Name   = "batch"
    Action = "allow"
  },
]

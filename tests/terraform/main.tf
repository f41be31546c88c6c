# What people write for functions, whole: every kind of resource that a node offers.

terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

variable "endpoint" {}

variable "memory" {
  default = 256
}

provider "aws" {
  region                      = "us-east-1"
  access_key                  = "any"
  secret_key                  = "any"
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
  endpoints {
    lambda = var.endpoint
  }
}

resource "aws_lambda_layer_version" "words" {
  layer_name               = "words"
  filename                 = "layer.zip"
  source_code_hash         = filebase64sha256("layer.zip")
  compatible_runtimes      = ["python3.11"]
  compatible_architectures = ["x86_64"]
  description              = "What functions say"
  license_info             = "MIT"
}

resource "aws_lambda_layer_version_permission" "others" {
  layer_name     = aws_lambda_layer_version.words.layer_name
  version_number = aws_lambda_layer_version.words.version
  statement_id   = "others"
  action         = "lambda:GetLayerVersion"
  principal      = "111122223333"
}

resource "aws_lambda_function" "greeter" {
  function_name                  = "greeter"
  filename                       = "code.zip"
  source_code_hash               = filebase64sha256("code.zip")
  role                           = "arn:aws:iam::000000000000:role/any"
  handler                        = "greeter.handler"
  runtime                        = "python3.11"
  timeout                        = 7
  memory_size                    = var.memory
  publish                        = true
  layers                         = [aws_lambda_layer_version.words.arn]
  reserved_concurrent_executions = 5
  tags = {
    team = "knots"
  }
  environment {
    variables = {
      MARK = "!"
    }
  }
  ephemeral_storage {
    size = 600
  }
  logging_config {
    log_format            = "JSON"
    application_log_level = "INFO"
    system_log_level      = "WARN"
  }
  tracing_config {
    mode = "Active"
  }
}

resource "aws_lambda_alias" "live" {
  name             = "live"
  function_name    = aws_lambda_function.greeter.function_name
  function_version = aws_lambda_function.greeter.version
  description      = "What callers get"
}

resource "aws_lambda_permission" "uploads" {
  statement_id  = "uploads"
  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.greeter.function_name
  qualifier     = aws_lambda_alias.live.name
  principal     = "s3.amazonaws.com"
  source_arn    = "arn:aws:s3:::uploads"
}

resource "aws_lambda_function_url" "live" {
  function_name      = aws_lambda_function.greeter.function_name
  qualifier          = aws_lambda_alias.live.name
  authorization_type = "NONE"
  invoke_mode        = "BUFFERED"
  cors {
    allow_origins = ["*"]
    allow_methods = ["GET"]
    max_age       = 60
  }
}

resource "aws_lambda_function_event_invoke_config" "live" {
  function_name                = aws_lambda_function.greeter.function_name
  qualifier                    = aws_lambda_alias.live.name
  maximum_event_age_in_seconds = 100
  maximum_retry_attempts       = 1
}

resource "aws_lambda_provisioned_concurrency_config" "live" {
  function_name                     = aws_lambda_function.greeter.function_name
  qualifier                         = aws_lambda_alias.live.name
  provisioned_concurrent_executions = 1
}

resource "aws_lambda_runtime_management_config" "greeter" {
  function_name     = aws_lambda_function.greeter.function_name
  update_runtime_on = "FunctionUpdate"
}

resource "aws_lambda_function_recursion_config" "greeter" {
  function_name  = aws_lambda_function.greeter.function_name
  recursive_loop = "Allow"
}

resource "aws_lambda_event_source_mapping" "orders" {
  event_source_arn               = "arn:aws:kinesis:us-east-1:000000000000:stream/orders"
  function_name                  = aws_lambda_function.greeter.arn
  starting_position              = "LATEST"
  batch_size                     = 50
  maximum_retry_attempts         = 3
  maximum_record_age_in_seconds  = 600
  bisect_batch_on_function_error = true
  parallelization_factor         = 2
  function_response_types        = ["ReportBatchItemFailures"]
  tags = {
    team = "knots"
  }
  filter_criteria {
    filter {
      pattern = jsonencode({ data = { amount = [1] } })
    }
  }
}

resource "aws_lambda_invocation" "first" {
  function_name = aws_lambda_function.greeter.function_name
  input         = jsonencode({ name = "ada" })
}

data "aws_lambda_function" "greeter" {
  function_name = aws_lambda_function.greeter.function_name
}

data "aws_lambda_functions" "all" {
  depends_on = [aws_lambda_function.greeter]
}

data "aws_lambda_alias" "live" {
  function_name = aws_lambda_function.greeter.function_name
  name          = aws_lambda_alias.live.name
}

data "aws_lambda_layer_version" "words" {
  layer_name = aws_lambda_layer_version.words.layer_name
}

output "said" {
  value = aws_lambda_invocation.first.result
}

output "version" {
  value = aws_lambda_function.greeter.version
}

output "url" {
  value = aws_lambda_function_url.live.function_url
}
